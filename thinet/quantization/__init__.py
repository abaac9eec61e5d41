"""Binary networks: residual quantisation of any order, trained, packed to bits and deployed."""
