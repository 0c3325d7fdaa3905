# SPDX-License-Identifier: Apache-2.0
"""Following a plan: what a session does whose decisions have all been made. Nothing here imports the binding."""
