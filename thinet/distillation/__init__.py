"""A family: a student learns from a teacher."""
