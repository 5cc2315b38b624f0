"""A submission folder from finished runs, and the program in it."""
