# What the table in __init__.py loads on demand, for type checkers: from <module> import <name> as <name>
