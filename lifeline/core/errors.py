"""What the composition root raises. Each message ends in what to do, or in what the node said last."""


class NodeError(Exception):
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
