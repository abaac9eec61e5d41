"""Where figures go while a run is under way."""
