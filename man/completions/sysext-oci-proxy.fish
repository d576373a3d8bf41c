# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_sysext_oci_proxy_global_optspecs
    string join \n config= listen= h/help V/version
end

function __fish_sysext_oci_proxy_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_sysext_oci_proxy_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_sysext_oci_proxy_using_subcommand
    set -l cmd (__fish_sysext_oci_proxy_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -l config -d 'Read only this settings file, instead of /etc/sysext-oci-proxy/config.toml and the drop-ins' -r -F
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -l listen -d 'Listen on this address, if systemd passes no socket' -r -f
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -s h -l help -d 'Print help'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -s V -l version -d 'Print version'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -f -a "serve" -d 'Serve clients on the socket that systemd passes (the default)'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -f -a "list" -d 'Show the files of a repository, as systemd-sysupdate would see them'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -f -a "fetch" -d 'Fetch a file of a repository, and verify it'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -f -a "transfer" -d 'Print or install transfer files of systemd-sysupdate for what a repository offers'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -f -a "check" -d 'Check each step of an update, and show what is wrong'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -f -a "inspect" -d 'Show the manifest and the config of one artifact as JSON'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -f -a "url" -d 'Show the URL of a manifest or of a layer, and the headers needed to fetch it, as JSON'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -f -a "key" -d 'Show the public key of this machine, or have systemd accept what it signs (as root)'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -f -a "version" -d 'Show the version'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand serve" -l listen -d 'Listen on this address, if systemd passes no socket' -r -f
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand serve" -l config -d 'Read only this settings file, instead of /etc/sysext-oci-proxy/config.toml and the drop-ins' -r -F
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand serve" -s h -l help -d 'Print help'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand list" -l service -d 'Ask the service at this address [default: http://localhost:5001]' -r -f
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand list" -l config -d 'Read only this settings file, instead of /etc/sysext-oci-proxy/config.toml and the drop-ins' -r -F
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand list" -l all -d 'Also show what is not offered, and why'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand list" -l json -d 'Print JSON'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand list" -l direct -d 'Ask the registry instead of the service, with the logins and the cache of this user. --config implies this'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand list" -s h -l help -d 'Print help'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand fetch" -l version -d 'Fetch the file of this version' -r -f
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand fetch" -s o -l output -d 'Write to this file, into this directory, or to standard output if it is -. Standard output may have received bytes before an error is found: check the exit status' -r -F
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand fetch" -l service -d 'Ask the service at this address [default: http://localhost:5001]' -r -f
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand fetch" -l config -d 'Read only this settings file, instead of /etc/sysext-oci-proxy/config.toml and the drop-ins' -r -F
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand fetch" -l direct -d 'Ask the registry instead of the service, with the logins and the cache of this user. --config implies this'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand fetch" -s h -l help -d 'Print help'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand transfer" -l component -d 'The name of the component [default: the last part of the repository\'s name]' -r -f
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand transfer" -l shape -d 'The shape of the files, if neither their names nor their contents show it' -r -f -a "sysext\t'A system extension: an image or a directory in /var/lib/extensions'
confext\t'A configuration extension: the same in /var/lib/confexts'
portable\t'A portable service: an image or a directory in /var/lib/portables'
kernel\t'A kernel and its initrd, in the boot partition'
uki\t'A unified kernel image, in /EFI/Linux of the boot partition'
os\t'Partitions of an OS, and its unified kernel image'"
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand transfer" -l name -d 'The name in the image\'s extension-release.NAME, or the beginning of the partitions\' labels [default: the beginning of the file names]' -r -f
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand transfer" -l service -d 'Ask the service at this address [default: http://localhost:5001]' -r -f
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand transfer" -l config -d 'Read only this settings file, instead of /etc/sysext-oci-proxy/config.toml and the drop-ins' -r -F
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand transfer" -l write -d 'Install the files in /etc/sysupdate.NAME.d/ (as root). An existing file with other content is an error'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand transfer" -l force -d 'Replace existing files, and remove those that were written for an earlier offer'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand transfer" -l automatic -d 'Enable the timer that updates the component every night'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand transfer" -l undo -d 'Disable the timer, and remove the files that --write installed, unless they were changed'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand transfer" -l direct -d 'Ask the registry instead of the service, with the logins and the cache of this user. --config implies this'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand transfer" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand check" -l service -d 'Ask the service at this address [default: http://localhost:5001]' -r -f
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand check" -l config -d 'Read only this settings file, instead of /etc/sysext-oci-proxy/config.toml and the drop-ins' -r -F
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand check" -l json -d 'Print JSON'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand check" -l direct -d 'Ask the registry instead of the service, with the logins and the cache of this user. --config implies this'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand check" -s h -l help -d 'Print help'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand inspect" -l config -d 'Read only this settings file, instead of /etc/sysext-oci-proxy/config.toml and the drop-ins' -r -F
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand inspect" -s h -l help -d 'Print help'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand url" -l layer -d 'Show the URL of a layer instead of the manifest: kernel, initramfs, rootfs, squashfs, uki, iso, disk, cmdline (in the config), or the suffix or title of a file' -r -f
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand url" -l config -d 'Read only this settings file, instead of /etc/sysext-oci-proxy/config.toml and the drop-ins' -r -F
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand url" -s h -l help -d 'Print help'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand key" -l forget-signed -d 'Forget that this repository had a list by its publisher, so that its tags are listed again' -r -f
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand key" -l config -d 'Read only this settings file, instead of /etc/sysext-oci-proxy/config.toml and the drop-ins' -r -F
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand key" -l install -d 'Have systemd accept lists that this key signed. From systemd 262 on only the units that update do, by a keyring of their own; up to systemd 261 every download with Verify=yes does'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand key" -l global -d 'With --install: have every download with Verify=yes accept them, also on systemd 262'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand key" -l remove -d 'Undo --install. All other keys stay as they are, byte for byte'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand key" -s h -l help -d 'Print help'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand version" -l config -d 'Read only this settings file, instead of /etc/sysext-oci-proxy/config.toml and the drop-ins' -r -F
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand version" -s h -l help -d 'Print help'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand help; and not __fish_seen_subcommand_from serve list fetch transfer check inspect url key version help" -f -a "serve" -d 'Serve clients on the socket that systemd passes (the default)'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand help; and not __fish_seen_subcommand_from serve list fetch transfer check inspect url key version help" -f -a "list" -d 'Show the files of a repository, as systemd-sysupdate would see them'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand help; and not __fish_seen_subcommand_from serve list fetch transfer check inspect url key version help" -f -a "fetch" -d 'Fetch a file of a repository, and verify it'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand help; and not __fish_seen_subcommand_from serve list fetch transfer check inspect url key version help" -f -a "transfer" -d 'Print or install transfer files of systemd-sysupdate for what a repository offers'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand help; and not __fish_seen_subcommand_from serve list fetch transfer check inspect url key version help" -f -a "check" -d 'Check each step of an update, and show what is wrong'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand help; and not __fish_seen_subcommand_from serve list fetch transfer check inspect url key version help" -f -a "inspect" -d 'Show the manifest and the config of one artifact as JSON'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand help; and not __fish_seen_subcommand_from serve list fetch transfer check inspect url key version help" -f -a "url" -d 'Show the URL of a manifest or of a layer, and the headers needed to fetch it, as JSON'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand help; and not __fish_seen_subcommand_from serve list fetch transfer check inspect url key version help" -f -a "key" -d 'Show the public key of this machine, or have systemd accept what it signs (as root)'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand help; and not __fish_seen_subcommand_from serve list fetch transfer check inspect url key version help" -f -a "version" -d 'Show the version'
complete -c sysext-oci-proxy -n "__fish_sysext_oci_proxy_using_subcommand help; and not __fish_seen_subcommand_from serve list fetch transfer check inspect url key version help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
