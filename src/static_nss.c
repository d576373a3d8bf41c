/* SPDX-License-Identifier: MIT OR Apache-2.0 */

/* Linked into the static program (make static). glibc has the NSS modules "files" and "dns" built in, and loads all others
 * of nsswitch.conf(5) with dlopen(3), also into a static program. Such a module brings the C library of the machine with it.
 * If that is another version than the one in the program, the program crashes: one linked with glibc 2.36 did with
 * libnss_myhostname and libnss_resolve of glibc 2.41 and 2.43. So only the modules that are built in are used. */

#include <nss.h>

__attribute__((constructor)) static void use_no_modules(void) {
    __nss_configure_lookup("hosts", "files dns");
    __nss_configure_lookup("passwd", "files");
}
