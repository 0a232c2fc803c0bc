#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes a board with a USB device controller an I2O device, as root: gadget.sh PROGRAM [ARGUMENTS].
# The program gets the folder of the endpoints as its last argument and says `described` when it has
# written the descriptors; then the device is connected. It ends with the program.
set -e
gadget=/sys/kernel/config/usb_gadget/i2o
endpoints=/dev/ffs-i2o

grep -q " /sys/kernel/config " /proc/mounts || mount -t configfs configfs /sys/kernel/config
mkdir -p "$gadget" && cd "$gadget"
echo 0x1209 >idVendor
echo 0x0001 >idProduct
mkdir -p strings/0x409 configs/c.1 functions/ffs.i2o
echo "${SERIAL:-1}" >strings/0x409/serialnumber
echo i2o >strings/0x409/manufacturer
echo "I2O processor" >strings/0x409/product
[ -e configs/c.1/ffs.i2o ] || ln -s functions/ffs.i2o configs/c.1/
mkdir -p "$endpoints"
grep -q " $endpoints " /proc/mounts || mount -t functionfs i2o "$endpoints"

"$@" "$endpoints" | while read -r word; do
    [ "$word" != described ] || ls /sys/class/udc | head -n 1 >UDC
done
