"""The sub-commands of maskgolf, one per file: arguments, one call, one rendering."""
