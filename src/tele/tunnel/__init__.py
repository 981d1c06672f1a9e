"""How are machines reached that nobody can dial? Over connections that they made themselves."""
