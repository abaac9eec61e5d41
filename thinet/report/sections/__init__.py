"""What each family has to show, one file a family."""
