"""Every error jetplane raises on purpose. Adapters translate, the controller decides, the CLI prints."""


class JetplaneError(Exception):
    """What was being done, to what, what was found, and what to do about it: one line, no identifiers of peers.

    `hint` is printed on its own after the message; it tells the operator what to do.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(JetplaneError):
    """A file that the operator wrote cannot be used; the node stays as it was."""


class PeerError(JetplaneError):
    """A peer record cannot be used. Names its position in its file, never its key."""


class RequirementError(JetplaneError):
    """The machine lacks something: a right, a kernel feature, a program, a library."""


class KernelError(JetplaneError):
    """The kernel refused a change. Carries the errno it answered with, 0 if it gave none."""

    def __init__(self, message: str, *, errno: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errno = errno


class CompileError(JetplaneError):
    """The BPF programs did not compile or did not pass the verifier."""


class BackendError(JetplaneError):
    """WireGuard, in the kernel or in user space, refused a change. Carries its errno, 0 if it gave none."""

    def __init__(self, message: str, *, errno: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errno = errno
