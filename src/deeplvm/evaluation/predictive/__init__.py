"""What the model predicts, held against what was seen."""
