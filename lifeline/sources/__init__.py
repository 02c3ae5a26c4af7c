"""Where histories come from: files, git repositories, a generator."""
