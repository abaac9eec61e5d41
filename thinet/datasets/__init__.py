"""Image data sets as LightningDataModules; each file holds one, ``module`` what they share."""
