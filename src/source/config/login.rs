//! A login to a registry.

use std::fmt;

/// A login. Its secret never shows in `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Login {
    /// A user name with a password or a personal access token.
    Password { user: String, password: String },
    /// A refresh token, which a token server exchanges (Azure's `az acr login`).
    IdentityToken(String),
    /// A bearer token for the registry itself.
    RegistryToken(String),
}

impl Login {
    /// A user name with a password. Control characters in them are a mistake.
    pub fn password(user: &str, password: &str) -> Result<Self, String> {
        if user.chars().chain(password.chars()).any(char::is_control) {
            return Err(
                "its user name or password has a control character, perhaps a newline at its end"
                    .into(),
            );
        }
        Ok(Self::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// The bytes of its texts.
    pub fn size(&self) -> usize {
        match self {
            Self::Password { user, password } => user.len() + password.len(),
            Self::IdentityToken(token) | Self::RegistryToken(token) => token.len(),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(…)",
            Self::IdentityToken(_) => "IdentityToken(…)",
            Self::RegistryToken(_) => "RegistryToken(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        for login in [
            Login::password("alice", "s3cret").unwrap(),
            Login::IdentityToken("s3cret".into()),
            Login::RegistryToken("s3cret".into()),
        ] {
            assert!(!format!("{login:?}").contains("s3cret"));
        }
    }
}
