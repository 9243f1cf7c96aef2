"""minibill: a prepaid-credits ledger and campaign engine on one SQLite file."""

__version__ = "0.1.0"
