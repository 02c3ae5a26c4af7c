"""Sources of actions: files, git repositories, and a generated history."""

HISTORY_VARIABLE = "LIFELINE_HISTORY"
"""The environment variable that names the directory of the demo's history."""
