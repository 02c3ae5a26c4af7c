"""Sources of actions: files, git repositories, and a generated history."""
