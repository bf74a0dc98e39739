"""The pluggable parts. One part is one file; kinds of parts never import each other."""
