"""Full disks, recognised whoever reports them."""

import errno

_DISK_FULL_TEXTS = ("no space left on device", "disk quota exceeded", "file too large")
_DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, means a full disk or quota.

    Orbax reports what its C++ writer says as text within a ValueError.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL_ERRORS:
            return True
        if any(text in str(error).lower() for text in _DISK_FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False
