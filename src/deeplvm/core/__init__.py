"""The idea: named conditionals, the trace of a call, and the ledger that p and q leave."""
