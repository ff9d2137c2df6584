"""Every document that crosses a process or outlives one; dataclasses without I/O."""
