"""Many runs, of any method, on one page and in one table."""
