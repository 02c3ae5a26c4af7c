"""The base of all errors that an operator can act on, and the errors of nodes and commands."""


class ActionableError(Exception):
    """A failure that an operator can act on: the message says what is wrong, where, and what to do.

    The command line prints the message, without a traceback, and exits with 1.
    """


class ConfigError(ActionableError):
    """The configuration is invalid; `problems` has a sentence for each fault. The command line exits with 2."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class NodeError(ActionableError):
    """A node could not start, or ended when it should not have."""


class ServerError(NodeError):
    """The gRPC server cannot start.

    Operators: stop what has the port, or give the node another one.
    """


class SecurityError(NodeError):
    """Certificates or tokens are not what the configuration says, or would cross a network in the clear.

    Operators: correct the [security] of the configuration.
    """


class NodeProcessError(NodeError):
    """A node in a process of its own ended, or did not become ready; its last log lines are in the message."""


class DataDirError(NodeError):
    """The node's data directory cannot be used.

    Operators: name another one, or give the node's user leave to write there.
    """


class ReplayError(NodeError):
    """A replay cannot be planned, or one of its processes failed.

    Operators: do what the message ends in; what was replayed stays, and the same command goes on from there.
    """


class LoadError(NodeError):
    """Load cannot be made: there is nobody to ask for, or no node.

    Operators: do what the message ends in.
    """
