# SPDX-License-Identifier: Apache-2.0
"""SHA-256 for some kilobytes, without OpenSSL: hashlib loads that, which costs a launch milliseconds."""

try:
    from _sha2 import sha256 as sha256  # type: ignore[import-not-found] # unknown to typeshed
except ImportError:  # before Python 3.12
    from _sha256 import sha256 as sha256  # type: ignore[import-not-found]
