"""The fault matrix: cases generated from the journal of a good run, strikes, and the judge of what became of them."""
