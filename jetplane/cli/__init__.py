"""The command line: arguments, output, exit statuses. Joins everything, decides nothing."""
