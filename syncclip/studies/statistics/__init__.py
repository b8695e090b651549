"""Statistics of a study: metrics, bootstrap, scaling fit, data efficiency."""
