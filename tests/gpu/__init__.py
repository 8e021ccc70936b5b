"""A package, so that its modules can have the names of modules in other test folders."""
