"""Methods for the nodes of graphs, and for graphs."""
