"""Recipes that read from top to bottom: one method a file."""
