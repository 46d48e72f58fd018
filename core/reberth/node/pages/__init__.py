"""Pages of memory between two nodes: page servers, post-copy, and who fills a copy."""
