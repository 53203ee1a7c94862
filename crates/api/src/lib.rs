//! Front doors, translation only: Docker plugin, REST, typed client.
