"""Families of networks: each is one object behind the protocol `family.Family`, bound to catalogue rows in `table`."""
