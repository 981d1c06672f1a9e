"""What does auth do for each row of the table? One method for each, named as the row is."""
