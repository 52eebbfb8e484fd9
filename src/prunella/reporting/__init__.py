"""Report pages, charts and tables from the results of other stages."""
