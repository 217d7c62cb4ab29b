"""An exit node with its subscribers and an internet, in network namespaces on one machine."""
