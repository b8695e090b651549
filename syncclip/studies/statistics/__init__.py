"""Statistics of a study: metrics, bootstrap, scaling fit and data efficiency."""
