"""How people read the answer: pages made from results alone."""
