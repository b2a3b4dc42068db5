"""The lock managers that can hold a guest's leases: the contract, the registry, the plugins.

`lockplugins.load(name)` is for programs; importing the package costs a guard nothing (README, D2).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.loading import load as load


def __getattr__(name: str) -> object:
    """Import what is public when somebody first uses it (PEP 562)."""
    if name == "load":
        from lockplugins.loading import load

        return load
    raise AttributeError(f"module {__name__} has no attribute {name}")
