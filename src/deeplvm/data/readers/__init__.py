"""Files and arrays -> rows: one reader a kind of source."""
