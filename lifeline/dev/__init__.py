"""What a checkout needs to try and test the project: a broker and nodes as child processes."""
