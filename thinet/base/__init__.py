"""What every room needs: errors, files, messages, seeds."""
