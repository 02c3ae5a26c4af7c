"""The base class of errors that an operator can act on, and the errors of nodes and commands."""


class ActionableError(Exception):
    """A failure that an operator can act on: the message says what is wrong, where, and what to do.

    The command line prints the message, without a traceback, and exits with 1.
    """


class ConfigError(ActionableError):
    """The configuration is invalid; `problems` has one sentence for each error. The command line exits with 2."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class NodeError(ActionableError):
    """A node could not start, or ended unexpectedly."""


class ServerError(NodeError):
    """The gRPC server cannot start.

    Operators: stop the process that uses the port, or set another port.
    """


class SecurityError(NodeError):
    """A certificate or token is missing or wrong, or a token would cross a network unencrypted.

    Operators: correct [security] in the configuration.
    """


class NodeProcessError(NodeError):
    """A node in a child process ended, or did not become ready; the message has its last log lines."""


class DataDirError(NodeError):
    """The node's data directory cannot be used.

    Operators: set another directory, or let the node's user write there.
    """


class ReplayError(NodeError):
    """A replay cannot be planned, or one of its processes failed.

    Operators: follow the advice in the message; the same command resumes from what has been replayed.
    """


class LoadError(NodeError):
    """A load test cannot run: there are no users, or no node.

    Operators: follow the advice in the message.
    """
