"""Writers of samples in the layouts of public data sets, one module per data set."""
