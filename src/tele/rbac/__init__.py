"""May they? Roles, labels and logins in; a Grant or a Denied out."""
