//! Shared file systems (virtiofs).

use crate::domain::elements::elements;

elements! {
    /// `<filesystem>`.
    pub struct FilesystemDevice {
        type_: String = "Type" [attr "type"];
        access_mode: String = "AccessMode" [attr "accessMode"];
        source: Option<FilesystemSource> = "Source" [child "source"];
        target: Option<FilesystemTarget> = "Target" [child "target"];
        driver: Option<FilesystemDriver> = "Driver" [child "driver"];
        binary: Option<FilesystemBinary> = "Binary" [child "binary"];
    }

    /// `filesystem/source`: directory or socket of virtiofsd.
    pub struct FilesystemSource {
        dir: String = "Dir" [attr "dir"];
        socket: String = "Socket" [attr? "socket"];
    }

    /// `filesystem/target`: mount tag.
    pub struct FilesystemTarget {
        dir: String = "Dir" [attr? "dir"];
    }

    /// `filesystem/driver`: `virtiofs`.
    pub struct FilesystemDriver {
        type_: String = "Type" [attr "type"];
        queue: String = "Queue" [attr? "queue"];
    }

    /// `filesystem/binary`: virtiofsd.
    pub struct FilesystemBinary {
        path: String = "Path" [attr? "path"];
        xattr: String = "Xattr" [attr? "xattr"];
        cache: Option<FilesystemBinaryCache> = "Cache" [child "cache"];
        lock: Option<FilesystemBinaryLock> = "Lock" [child "lock"];
    }

    /// `filesystem/binary/cache`: its cache mode.
    pub struct FilesystemBinaryCache {
        mode: String = "Mode" [attr? "mode"];
    }

    /// `filesystem/binary/lock`: its locks.
    pub struct FilesystemBinaryLock {
        posix: String = "Posix" [attr? "posix"];
        flock: String = "Flock" [attr? "flock"];
    }
}
