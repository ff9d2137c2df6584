"""One module for each verb that a user types; the only code that joins the other rooms."""
