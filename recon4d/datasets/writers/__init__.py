"""Writers of samples in the layouts of data sets."""
