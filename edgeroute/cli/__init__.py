"""The command line: parse, call, print. Each command's module is imported when the command runs, not before."""
