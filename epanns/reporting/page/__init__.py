"""The report as one HTML page that opens from disk: tables and charts in one file, without a network."""
