"""Other ways to learn a model than by one encoder for all rows (monograph, appendix A.2)."""
