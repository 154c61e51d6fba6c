"""Several processes that give the numbers of one."""
